"""State search: all orders of delivery, loss, timers and crashes on the real `PaxosServer`."""
