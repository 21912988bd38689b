"""The fields of KubeRay's kinds that cluster/ uses, after the API reference of KubeRay 1.7 (ray.io/v1).

Not the operator's own schema: its custom resource definitions are in no package index. Whatever is
not listed here is refused, so that a new field is looked up before it is used. Pods are checked
against Kubernetes' schemas elsewhere.
"""


def _object(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT, _BOOLEAN = {"type": "string"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_POD_TEMPLATE = _object(["spec"], spec={"type": "object"}, metadata={"type": "object"})
_START = {"type": "object", "additionalProperties": _TEXT}
_CREDENTIAL = _object(value=_TEXT, valueFrom={"type": "object"})

_CLUSTER = _object(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    rayVersion=_TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    enableInTreeAutoscaling=_BOOLEAN,
    autoscalerOptions=_object(
        idleTimeoutSeconds=_COUNT,
        resources={"type": "object"},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    gcsFaultToleranceOptions=_object(
        ["redisAddress"], redisAddress=_TEXT, redisPassword=_CREDENTIAL, redisUsername=_CREDENTIAL
    ),
    headGroupSpec=_object(
        ["rayStartParams", "template"],
        rayStartParams=_START,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        template=_POD_TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            ["groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"],
            groupName=_TEXT,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            rayStartParams=_START,
            template=_POD_TEMPLATE,
        ),
    },
)


def _kind(name, spec):
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": name},
        metadata=_object(["name"], name=_TEXT),
        spec=spec,
    )


KUBERAY = {
    "RayCluster": _kind("RayCluster", _CLUSTER),
    "RayJob": _kind(
        "RayJob",
        _object(
            ["entrypoint", "rayClusterSpec"],
            entrypoint=_TEXT,
            backoffLimit=_COUNT,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            shutdownAfterJobFinishes=_BOOLEAN,
            ttlSecondsAfterFinished=_COUNT,
            rayClusterSpec=_CLUSTER,
        ),
    ),
}
