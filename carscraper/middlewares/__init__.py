"""What stands between the engine and the network: patience and the address guard."""
