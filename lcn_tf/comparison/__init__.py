"""Many models, several seeds, one record set: which model is better, by how much, at which cost?"""
