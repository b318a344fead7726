"""The common parts of all routes: problems, bodies, answers, guards, roles and the parameters of pages."""
