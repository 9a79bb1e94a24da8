"""`python -m sandbox.provider aws|azure-native|azuread|ec|elasticstack`: what a `pulumi-resource-…` wrapper runs."""

import sys

PACKAGES = ("aws", "azure-native", "azuread", "ec", "elasticstack")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PACKAGES:
        sys.exit(f"usage: python -m sandbox.provider {'|'.join(PACKAGES)}")
    from sandbox.provider.server import serve  # after the check, so that a usage error is quick

    serve(sys.argv[1])
