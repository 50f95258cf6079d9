"""What computes a version's logits, in torch and in the forms that others run, each proved.

The proof is that of serving: from the bytes of the golden images, what is exported must give the
logits that training recorded.
"""
