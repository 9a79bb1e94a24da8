"""The resource types, a module a service: each has a table KINDS from type name to Kind."""
