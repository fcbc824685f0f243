"""The system: three services and the nouns they share. Path = import; services never import each other."""
