"""stub"""
import base64, hashlib
def content_hash(p):
    return base64.b64encode(hashlib.sha256(p.read_bytes()).digest()).decode()
LAMBDA=None
def build_bundle(t,c): raise NotImplementedError
