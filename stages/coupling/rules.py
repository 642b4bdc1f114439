"""What each operation of torch lets go together: a rule for each, from its inputs' dimensions to its output's.

A rule that is missing, or does not know a case, fixes all dimensions of what it is given and gives: nothing of them can
go. To add one: a function in a file beside this one, and its names in `RULES`.
"""

from __future__ import annotations

from dualprune.stages.coupling import entries, layers, views
from dualprune.stages.coupling.known import Rule

_ENTRIES = """add sub mul div rsub pow neg abs exp log sqrt rsqrt reciprocal square sin cos sign relu relu6 gelu silu
    sigmoid tanh hardtanh hardsigmoid hardswish leaky_relu elu celu selu mish softplus softsign logsigmoid erf clamp
    clamp_min clamp_max dropout feature_dropout alpha_dropout clone contiguous to _to_copy alias detach detach_ copy
    lift_fresh_copy lift_fresh maximum minimum where type_as float masked_fill eq ne lt le gt ge logical_not
    logical_and logical_or bitwise_not hardshrink addcmul addcdiv lerp bernoulli bitwise_and bitwise_or floor round
    true_divide threshold rrelu cast nan_to_num fill zero
    __and __or __xor bitwise_xor logical_xor fmod remainder sinh cosh tan atan expm1 log1p log2 isnan isinf xlogy"""
_PLACES = """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d upsample_trilinear3d upsample_nearest3d reflection_pad1d reflection_pad3d replication_pad1d
    replication_pad3d lp_pool1d lp_pool3d
    _adaptive_avg_pool2d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d upsample_nearest1d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d reflection_pad2d replication_pad2d lp_pool2d"""
_RULES: tuple[tuple[Rule, str], ...] = (
    (entries.same, _ENTRIES),
    (entries.spatial, _PLACES),
    (layers.convolution, "conv1d conv2d conv3d"),
    (layers.transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (layers.linear, "linear"),
    (layers.addmm, "addmm"),
    (layers.product, "matmul mm bmm"),
    (layers.added_product, "baddbmm"),
    (layers.attention, "scaled_dot_product_attention"),
    (layers.einsum, "einsum"),
    (layers.embedding, "embedding"),
    (layers.batch_norm, "batch_norm instance_norm _native_batch_norm_legit_no_training"),
    (layers.layer_norm, "layer_norm rms_norm"),
    (layers.group_norm, "group_norm"),
    (layers.prelu, "prelu"),
    (
        entries.reduced,
        "mean sum amax amin max min var std var_mean norm linalg_vector_norm logsumexp prod any all argmax",
    ),
    (entries.along, "softmax log_softmax _softmax cumsum sort flip roll"),
    (views.permuted, "permute"),
    (views.transpose, "transpose t swapaxes swapdims"),
    (views.seen, "view reshape reshape_as view_as flatten unflatten _unsafe_view"),
    (views.expanded, "expand expand_as broadcast_to"),
    (views.repeated, "repeat"),
    (views.each_repeated, "repeat_interleave"),
    (views.concatenated, "cat concat"),
    (views.stacked, "stack"),
    (views.chunks, "chunk split split_with_sizes tensor_split"),
    (views.unbound, "unbind select"),
    (views.sliced, "slice narrow"),
    (views.indexed, "index"),
    (views.selected, "index_select"),
    (views.windows, "unfold"),
    (views.columns, "im2col col2im"),
    (views.shuffled, "pixel_shuffle pixel_unshuffle"),
    (entries.whole, "gather scatter scatter_add index_put index_add index_copy masked_select topk argsort one_hot"),
    (entries.glu, "glu"),
    (entries.nothing, "_assert_tensor_metadata _assert_async _assert_scalar"),
    (views.squeezed, "squeeze"),
    (views.unsqueezed, "unsqueeze"),
    (views.padded, "pad constant_pad_nd"),
    (entries.made, "zeros ones full arange empty scalar_tensor linspace eye rand randn"),
    (entries.filled, "zeros_like ones_like full_like empty_like new_zeros new_ones new_full rand_like new_empty"),
)
RULES: dict[str, Rule] = {name: rule for rule, names in _RULES for name in names.split()}
"""By the operation's name, without the underscore of those that change their input."""
