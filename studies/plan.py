"""What `study.py` compares: its rows, and for how long each is tuned and trained."""

LOW, MID, HIGH = VOCABS = (8_192, 50_000, 200_000)
TUNED_STEPS = 400  # of each training in tuning at the smallest V
TUNED_S = 30  # seconds of each training in tuning at the larger V
TRIALS = {LOW: 10, MID: 6, HIGH: 6}
TUNED_ON = {LOW: 256, MID: 256, HIGH: 64}  # validation examples: at 200,000 a position costs 4 µs
EQUAL = {LOW: (2_500,), MID: (2_500, 600), HIGH: (1_250,)}  # steps
SECONDS = 200  # of each training in the comparison by seconds, the same at every V
POOL = (
    70_000  # examples that these draw from, and count u on, if they read fewer than the paper does
)
SEEDS = {LOW: 3, MID: 2, HIGH: 1}  # after equal steps; after equal seconds one, and of Transformers
EXACT_SEEDS = {LOW: 3, MID: 1, HIGH: 1}
ROUNDS = 3  # of step times
EXAMPLES = (2_500, 10_000, 40_000)  # fewer than are seen once in the comparison by seconds

LADDERS = {  # the values that a setting may have in a search, in order
    "lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "table_lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "weight_decay": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "temperature": (0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0),
    "betas": ((0.9, 0.95), (0.9, 0.98), (0.9, 0.99), (0.9, 0.999)),
}
START = {"lr": 3e-3, "table_lr": 3e-2, "weight_decay": 0.1}  # where every search begins
BETAS = {"betas": (0.9, 0.999)}  # the fourth setting that is tuned, where the scores have no τ
TAU = {"temperature": 0.07}

PRIOR = "SEMANTIC with prior"
TUNED = "SEMANTIC tuned"
SPARSE = "SEMANTIC with prior, SparseAdam"  # as the one with a prior, and what exactness is worth

CE = {"method": "ce"}
LOWRANK = {"method": "ce_lowrank", "init_std": 0.02}
COSINES = {"method": "sampled_softmax"}
DOTS = {"method": "sampled_softmax", "scores": "dot"}
WITH_PRIOR = {"method": "semantic_prior"}
LOG_U = {"log_unigram": True}
METHODS = {  # a row of the tables: what it always has, and where its own setting begins in tuning
    "CE": (CE, BETAS),
    "CE from log u": (CE | LOG_U, BETAS),
    "CE at D = 64": (LOWRANK, TAU),
    "CE at D = 64 from log u": (LOWRANK | LOG_U, TAU),
    "adaptive softmax": ({"method": "adaptive"}, BETAS),
    "sampled softmax, dot": (DOTS, {"temperature": 1.0}),
    "sampled softmax, dot, from log u": (DOTS | LOG_U, {"temperature": 1.0}),
    "sampled softmax, cosine": (COSINES, TAU),
    "sampled softmax, cosine, from log u": (COSINES | LOG_U, TAU),
    TUNED: ({"method": "semantic", "init_std": 0.02}, TAU),
    PRIOR: (WITH_PRIOR, TAU),
    "SEMANTIC with prior at D = 256": (WITH_PRIOR | {"semantic_dim": 256}, TAU),
}
PUBLISHED = {  # the paper's settings; how the rows are drawn it does not say
    "SEMANTIC as published": {"method": "semantic"},
    "SEMANTIC as published, std 0.02": {"method": "semantic", "init_std": 0.02},
}
CONSTANT = {"schedule": "constant", "warmup": 0}  # the paper's rate
LABELS = (*METHODS, *PUBLISHED, SPARSE)

# How a Transformer's row ends: with as many parameters as the GRU within 0.2%, or four times them.
TRANSFORMERS = {
    ", 1-block Transformer": {"backbone": "transformer", "layers": 1, "mlp_ratio": 1},
    ", 2-block Transformer": {"backbone": "transformer", "layers": 2, "mlp_ratio": 4},
}
GRU = {}  # of a Transformer's row the GRU's
ROWS = METHODS.copy()
for label in ("CE", PRIOR):
    always, own = METHODS[label]
    for ending, shape in TRANSFORMERS.items():
        GRU[label + ending] = label
        ROWS[label + ending] = (always | shape, own)
BACKBONES = ("CE", PRIOR, *GRU)

EXACT = tuple(label for label in ROWS if label.startswith("CE"))  # softmaxes over all V tokens
TOO_LONG = {  # left out after so many steps: an exact softmax takes an hour there, and more
    (MID, 2_500): (
        "CE from log u",
        "CE at D = 64 from log u",
        "CE, 1-block Transformer",
        "CE, 2-block Transformer",
    ),
    (HIGH, 1_250): ("CE from log u", "CE at D = 64", "CE at D = 64 from log u"),
}
SPACES = ("SEMANTIC as published", TUNED, PRIOR, "CE", "CE at D = 64")  # whose vectors are kept

WIDTHS = {
    "semantic_dim": (32, 256),
    "temperature": (0.05, 0.07, 0.1, 0.14),
    "init_std": (0.02, 0.1, 0.3, 1.0),
}
CHANGED = {  # the values that are tried one at a time beside the best settings
    TUNED: {"negatives": (8, 128)} | WIDTHS,
    PRIOR: {"shared": (64, 256, 1024, 4096)}
    | WIDTHS
    | {"sampler": ("log_uniform", "unigram^0.75", "in_batch")},
}
