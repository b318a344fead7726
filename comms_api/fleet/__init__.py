"""Events of the fleet: what happened to its agents and nodes, in an order that a reader can follow without gaps."""
