"""What all routes share: problems, bodies, authentication, pages and early answers."""
