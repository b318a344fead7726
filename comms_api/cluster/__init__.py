"""The nodes: who is here, in what state, and which of them agents should go to. No node leads."""
