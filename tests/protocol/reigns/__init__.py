"""What prolongs, hinders, hands over and ends a reign."""
