"""How many examples hypothesis tries: few in the fast tests, EKD_FUZZ_EXAMPLES of them in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

fuzzed = settings(
    deadline=None,  # a busy machine is slow
    derandomize="EKD_FUZZ_EXAMPLES" not in os.environ,  # what fails in CI is the change that it looks at
    max_examples=int(os.environ.get("EKD_FUZZ_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
