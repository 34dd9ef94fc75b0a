"""Many models, several seeds, one record set: who is better, by how much, at what cost?"""
