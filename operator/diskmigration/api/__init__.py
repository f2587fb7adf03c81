"""The three kinds of `diskmigration.dev/v1alpha1` as typed models, with their phases, reasons and quantities.

Both the controller and the agent speak through these and through nothing else. Nothing here does input or output.
The CRD files are the source of truth: a test holds the models against them.
"""
