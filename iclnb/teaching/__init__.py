"""What the notebooks show and ask: figures, explorers, a prompt on the page, and checks of the exercises."""
