"""The how-to's first example, executed by tests/book/test_howto.py."""

from gentangle import case, cosine, first_order_changes, gram, objective
from gentangle.alignment.policy import collate, load_policy, response_log_probs
from gentangle.alignment.preference import Pair

model, tokenizer = load_policy("recipes/tweets_base")  # a folder, or a hub name
pair = Pair("LMAO, AMAZING! The sentiment of the text is", " positive", " negative")
batch = collate(tokenizer, [pair])
G = gram(model, lambda m: response_log_probs(m, batch))
w, l = (value.item() for value in response_log_probs(model, batch))
d_w, d_l = objective("dpo").slopes(w, l, ref_chosen=w, ref_rejected=l, beta=0.1)
changes = first_order_changes(G, d_w, d_l)
print(f"cosine {cosine(G):+.2f}, per unit step {changes.round(1)}: {case(changes)}")
