"""Real servers, real agents over real sockets, and builders of requests, for all tests."""
