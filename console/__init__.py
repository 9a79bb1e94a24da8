"""The Archive Console: the customer's own page and API, and the worker that does what they ask for."""
