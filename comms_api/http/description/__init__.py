"""The OpenAPI description of an API: what Litestar cannot know is added here, and a page shows it."""
