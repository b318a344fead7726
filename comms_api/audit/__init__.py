"""The audit trail: every change of the fleet and of permissions; it can be read and exported but never changed."""
