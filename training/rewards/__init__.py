"""Rewards and credit as pure functions on tensors, one question to a file.

The suffix of a tensor's name is its shape, one letter an axis, here and everywhere in `training`:

    B  rollouts, of this process or of all of them       P  prompt tokens
    K  episodes of a rollout; K1 is K + 1                T  completion tokens
    G  rollouts of one prompt, a group                   S  prompt and completion tokens, and probes where there are any
    L  tokens of one probe                               Q  tokens of all of a rollout's probes
    A  tokens of a probe's answer                        C  tokens before the probes: prompt and completion
    N  any number of rows, flattened                     V  vocabulary
    d  width of the model                                m  width of its MLP
    r  rank of the proxy (`compression`); PP: r^2 x r^2  1  an axis of length 1

So `gain_BK` is (rollouts, episodes) and `reward_BT` (rollouts, completion tokens). `index_BT` is each completion
token's episode from 0, and -1 on padding.
"""
