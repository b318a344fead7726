"""From a request of an operator to the orders of its commands, durable before the answer."""
