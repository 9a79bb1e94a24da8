"""The gate before Azurite's blobs: it knows the callers, the roles, the calls that there are, and the account's key."""
