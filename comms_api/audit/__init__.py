"""The audit trail: every change of who may do what and of the fleet, readable and exportable, never changeable."""
