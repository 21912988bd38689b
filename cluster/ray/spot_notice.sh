#!/bin/sh
# Watches for AWS's two-minute notice that this spot machine is taken, and tells Ray: workers here
# then checkpoint at once and leave. Call it with the address of Ray's head, HOST:6379.
set -eu
head=$1
metadata=http://169.254.169.254/latest

noticed() {
    token=$(wget --quiet --output-document=- --method=PUT \
        --header='X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") &&
        wget --quiet --output-document=/dev/null \
            --header="X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

while ! noticed; do
    sleep 5
done
exec ray drain-node --address "$head" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message 'spot interruption notice' --deadline-remaining-seconds 110
