"""What tests share: real servers, real agents over real sockets, and builders of what they send."""
