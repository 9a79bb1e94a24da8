"""Azure, as far as Keyshift uses it: Entra, Resource Manager, Graph, Key Vault, and the gates before Azurite.

One process. Everything speaks TLS under a certificate authority of the sandbox's own, because Azure's SDKs
send no token over plain HTTP. Resource Manager, Entra and Graph share one port; blobs and queues have one
each, because an account's name is the first part of the path there; each vault has one, because the SDK
takes a vault to be an origin.
"""
