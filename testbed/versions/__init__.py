"""The manifests and the API's tests against other versions of Kubernetes than the one that everything else runs on."""
