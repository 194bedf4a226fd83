"""The how-to's example, executed by tests/book/test_howto.py."""

from gentangle import case, cosine, first_order_changes, gram, objective
from gentangle.alignment.policy import collate, each_response_log_prob, load_policy
from gentangle.alignment.preference import Pair

model, tokenizer = load_policy("recipes/tweets_base")
pair = Pair("LMAO, AMAZING! The sentiment of the text is", " positive", " negative")
batch = collate(tokenizer, [pair])
G = gram(model, lambda m: each_response_log_prob(m, batch))
chosen, rejected = (value.item() for value in each_response_log_prob(model, batch))
d_w, d_l = objective("dpo").slopes(chosen, rejected, ref_chosen=chosen, ref_rejected=rejected, beta=0.1)
changes = first_order_changes(G, d_w, d_l)
print(f"cosine {cosine(G):+.2f}, change per unit step {changes.round(1)}: {case(changes)}")
