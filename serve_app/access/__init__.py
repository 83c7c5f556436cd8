"""Who may ask what: API keys, where they are kept, and how often each may be used."""
