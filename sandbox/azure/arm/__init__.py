"""Resource Manager: the resource types that Keyshift's components use."""
