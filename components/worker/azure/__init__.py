"""The worker on Azure: a process that polls a storage queue, and a tenant's objects in a container."""
