"""The columns of evaluations.csv, and what stands in them for several attributes, budgets or seeds."""

CANDIDATE_COLUMNS = ["experiment", "candidate", "method", "split", "shard", "merge", "seed", "budget"]
COLUMNS = [*CANDIDATE_COLUMNS, "evaluation", "attribute", "metric", "value", "low", "high", "p", "n"]

# Of attributes: means, the one to forget of which most is left, and the difference of the means.
FORGET_MEAN, WORST_FORGET = "forget mean", "forget worst"
RETAIN_MEAN, RETAIN_MINUS_FORGET = "retain mean", "retain minus forget"
RESERVED = (FORGET_MEAN, WORST_FORGET, RETAIN_MEAN, RETAIN_MINUS_FORGET)  # no attribute may be called so

AS_TRAINED, ALL_BUDGETS = "", "all"  # of budgets: λ as configured, and the mean over them

# A difference's metric, and what one seed, the clusters that were asked, and these for one seed add to its variance.
VARIANCE_OF_SEEDS, VARIANCE_OF_CLUSTERS = "_variance_of_seeds", "_variance_of_clusters"
VARIANCE_OF_BOTH = "_variance_of_both"
