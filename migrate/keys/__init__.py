"""Keys: wrapping on the customer's side, importing on ours."""
