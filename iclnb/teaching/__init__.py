"""What the notebooks show and ask: figures, explorers, a prompt on the page, checks of the exercises, a quiz."""
