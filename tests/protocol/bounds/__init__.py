"""Rule 16: what anybody may take, what numbers from the wire may do, what a put may cost."""
