"""The stages of the main job, one file each, in the order of `orchestrator.pipeline.pipeline.STAGES`.

A stage takes the `RunContext` and returns what it made as plain JSON values for the manifest.
"""
