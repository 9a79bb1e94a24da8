"""The worker of a pipeline: what Lambda runs. Standard library and boto3 only."""
