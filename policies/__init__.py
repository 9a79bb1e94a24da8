"""What may never be provisioned: a Pulumi policy pack, and the same rules for whoever judges a plan."""
