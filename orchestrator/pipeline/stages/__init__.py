"""What each stage of `orchestrator.pipeline.order` does, one file each.

A stage takes the `RunContext` and returns what it made as plain JSON values for the manifest.
"""
