"""What all routes share: problems, bodies, answers, guards, roles and the parameters of pages."""
