"""Key Vault: vaults, keys and secrets, with RBAC, soft delete and purge protection. It plays the HSM."""
