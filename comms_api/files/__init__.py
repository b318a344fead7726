"""The shared configuration files of groups: their versions, who runs which, and the orders that announce a change."""
