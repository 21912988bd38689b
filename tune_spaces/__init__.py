"""Search spaces of `ekd tune --space NAME`: one YAML file each, and no logic.

A space maps dotted keys of an experiment to the domain that they are searched over, each with the
reason for its range. `orchestrator.tuning.space` reads them, and files of a user's own alike:

    description: what the space is for
    domains:
      distillation.temperature: {log_uniform: [1, 16], reason: why this range}
      student.members: {choice: [2, 3, 4], reason: why these}

Domains: `choice` (a list of values), `uniform`, `log_uniform`, `integer` (each `[low, high]`, ends
included).
"""
