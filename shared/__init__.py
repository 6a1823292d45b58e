"""What both ends of the link must agree on, and the scaffolding that every service stands on."""
