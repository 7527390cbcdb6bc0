/* What does the difficulty profile predict for one prompt, and what does that mean under a limit? Without Python.
 *
 * This is `models.profile.Profile` in C, for a gateway that decides on every request: the same formulas in the same
 * order. `models.compiled` fills in `Plan` from a profile that was checked, so nothing is checked here.
 * tests/models/test_compiled.py compares the two.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define VERSION 2 /* of the structures and signatures; `models.compiled` has the same number */
#define LEVELS 22

/* Goes to child[1] if the feature is above the threshold. A leaf goes to itself. */
typedef struct {
    double threshold;
    int32_t feature, child[2], unused;
} Node;

/* So many trees as they are at the positions from low to high - 1. After `depth` steps every walk is at a leaf. */
typedef struct {
    int32_t trees, depth, low, high;
} Group;

typedef struct {
    double intercept;
    const Group *groups;
    const int32_t *roots; /* of the trees, group by group */
    const Node *nodes;
    const double *values; /* by node; of leaves */
    int64_t count;        /* of groups */
} Forest;

typedef struct {
    int64_t inputs, checkpoints, escalations, shifts;
    Forest correct, tokens, spread, forced, answers;
    double forest_weight;         /* of the forest `correct` in easiness */
    const double *lower, *upper;  /* of the features of the fitting prompts */
    const double *slope, *offset; /* P(correct), by checkpoint */
    const double *residuals;      /* sorted, checkpoints x LEVELS */
    const double *forced_shifts;  /* checkpoints x shifts */
    const double *answer_scales;  /* by checkpoint; all 0 if answers are not predicted */
    const int32_t *pairs;         /* first and second checkpoint, by escalation */
    const double *fitted;         /* a, b of P(correct) and m, k, l of P(unsure), by escalation */
    const double *levels, *trapezoids; /* quantile levels, and weights that sum quantiles to a mean */
} Plan;

/* A prediction in doubles, one block after the other: whether x is within the bounds; x; p_correct, expected, answers
 * and tokens (by checkpoint); p_correct and p_unsure (by escalation); whether the following is there; what a budget
 * leaves (by checkpoint). */
typedef struct {
    double *within, *x, *correct, *expected, *answers, *tokens, *pair_correct, *pair_unsure, *has_forced, *forced;
} State;

static State state_of(const Plan *plan, double *block) {
    State s;
    s.within = block;
    s.x = s.within + 1;
    s.correct = s.x + plan->inputs;
    s.expected = s.correct + plan->checkpoints;
    s.answers = s.expected + plan->checkpoints;
    s.tokens = s.answers + plan->checkpoints;
    s.pair_correct = s.tokens + plan->checkpoints * LEVELS;
    s.pair_unsure = s.pair_correct + plan->escalations;
    s.has_forced = s.pair_unsure + plan->escalations;
    s.forced = s.has_forced + 1;
    return s;
}

int64_t laconic_version(void) { return VERSION; }

int64_t laconic_state_doubles(const Plan *plan) {
    State s = state_of(plan, NULL);
    return (s.forced - (double *)NULL) + plan->checkpoints * plan->shifts;
}

static void evaluate(const Forest *forest, const double *x, int64_t positions, double *sums) {
    for (int64_t position = 0; position < positions; position++) sums[position] = 0.0;
    const int32_t *root = forest->roots;
    /* Walks of a group have equally many steps for every prompt, so the processor need not guess where they end. */
    for (const Group *group = forest->groups; group < forest->groups + forest->count; group++) {
        double sum = 0.0;
        for (int32_t tree = 0; tree < group->trees; tree++) {
            int32_t at = *root++;
            for (int32_t step = 0; step < group->depth; step++) {
                const Node *node = forest->nodes + at;
                at = node->child[x[node->feature] > node->threshold];
            }
            sum += forest->values[at];
        }
        for (int32_t position = group->low; position < group->high; position++) sums[position] += sum;
    }
    for (int64_t position = 0; position < positions; position++) sums[position] += forest->intercept;
}

/* Inlined, unlike fmin and fmax: nothing here is NaN. */
static double smaller(double a, double b) { return a < b ? a : b; }
static double larger(double a, double b) { return a > b ? a : b; }

static double sigmoid(double z) { return 1.0 / (1.0 + exp(-smaller(larger(z, -50.0), 50.0))); }

static double mean_below(const Plan *plan, const double *tokens, const double *more, double cap) {
    double sum = 0.0;
    for (int64_t level = 0; level < LEVELS; level++) {
        double value = more ? tokens[level] + more[level] : tokens[level];
        sum += smaller(value, cap) * plan->trapezoids[level];
    }
    return sum;
}

/* P(tokens <= at), interpolated between quantiles, of one checkpoint or of two, one after the other. */
static double share_below(const Plan *plan, const double *tokens, const double *more, double at) {
    double last = tokens[LEVELS - 1] + (more ? more[LEVELS - 1] : 0.0);
    if (at >= last) return plan->levels[LEVELS - 1];
    for (int64_t level = LEVELS - 2; level >= 0; level--) {
        double low = tokens[level] + (more ? more[level] : 0.0);
        if (low > at) continue;
        double high = tokens[level + 1] + (more ? more[level + 1] : 0.0);
        double slope = (plan->levels[level + 1] - plan->levels[level]) / (high - low);
        return slope * (at - low) + plan->levels[level];
    }
    return plan->levels[0];
}

/* Predict for a prompt with these counts. `state` has laconic_state_doubles. Returns the mean P(wrong). */
double laconic_read(const Plan *plan, const double *counts, double easiness, double *state) {
    State s = state_of(plan, state);
    const double *x = s.x;
    int64_t inputs = plan->inputs, checkpoints = plan->checkpoints;
    double easy[checkpoints], mean[checkpoints], spread[checkpoints], total = 0.0;
    s.within[0] = 1.0;
    for (int64_t input = 0; input < inputs; input++) {
        s.x[input] = log1p(counts[input]);
        if (s.x[input] < plan->lower[input] || s.x[input] > plan->upper[input]) s.within[0] = 0.0;
    }
    evaluate(&plan->correct, x, checkpoints, easy);
    evaluate(&plan->tokens, x, checkpoints, mean);
    evaluate(&plan->spread, x, checkpoints, spread);
    evaluate(&plan->answers, x, checkpoints, s.answers);
    for (int64_t c = 0; c < checkpoints; c++) {
        easy[c] = easiness + plan->forest_weight * easy[c];
        s.correct[c] = sigmoid(plan->slope[c] * easy[c] + plan->offset[c]);
        total += s.correct[c];
        double size = exp(smaller(spread[c], 10.0));
        for (int64_t level = 0; level < LEVELS; level++) {
            double log_tokens = mean[c] + size * plan->residuals[c * LEVELS + level];
            s.tokens[c * LEVELS + level] = larger(exp(smaller(log_tokens, 20.0)) - 1.0, 0.0);
        }
        s.expected[c] = mean_below(plan, s.tokens + c * LEVELS, NULL, INFINITY);
        s.answers[c] = larger(plan->answer_scales[c] * exp(smaller(s.answers[c], 20.0)) - 1.0, 0.0);
    }
    for (int64_t e = 0; e < plan->escalations; e++) {
        const double *fitted = plan->fitted + 5 * e;
        s.pair_correct[e] = sigmoid(fitted[0] * easy[0] + fitted[1]);
        s.pair_unsure[e] = sigmoid(fitted[2] + fitted[3] * easy[0] + fitted[4] * mean[plan->pairs[2 * e]]);
    }
    s.has_forced[0] = 0.0;
    return 1.0 - total / (double)checkpoints;
}

/* Logits of P(correct | thinking ended at 0, 1, 3, 7, ... tokens), which never fall, by checkpoint. */
static void read_forced(const Plan *plan, State *s) {
    double sums[plan->shifts];
    evaluate(&plan->forced, s->x, plan->shifts, sums);
    for (int64_t c = 0; c < plan->checkpoints; c++) {
        double most = -INFINITY;
        for (int64_t u = 0; u < plan->shifts; u++) {
            most = larger(most, sums[u] + plan->forced_shifts[c * plan->shifts + u]);
            s->forced[c * plan->shifts + u] = most;
        }
    }
    s->has_forced[0] = 1.0;
}

static double correct_within(const Plan *plan, State *s, int64_t checkpoint, double correct, double within, double left) {
    if (within == 1.0) return correct;
    if (s->has_forced[0] == 0.0) read_forced(plan, s);
    const double *logits = s->forced + checkpoint * plan->shifts;
    double at = log2(1.0 + larger(left, 0.0)), forced;
    if (at >= (double)(plan->shifts - 1)) {
        forced = sigmoid(logits[plan->shifts - 1]);
    } else {
        int64_t below = (int64_t)at;
        double low = sigmoid(logits[below]);
        forced = low + (at - (double)below) * (sigmoid(logits[below + 1]) - low);
    }
    return smaller(correct, correct * within + forced * (1.0 - within));
}

/* As Python's round(): the double next to the decimal number that is next to x. */
static double rounded(double x, int digits) {
    double scale = digits == 4 ? 1e4 : 1e2, scaled = x * scale, whole = rint(scaled);
    if (fabs(scaled - whole) < 0.499 && scaled < 1e15) return whole / scale;
    char text[400];
    snprintf(text, sizeof text, "%.*f", digits, x);
    return strtod(text, NULL);
}

static void put(double *out, double success, double tokens, double unlimited, double answers, int64_t exact) {
    out[0] = exact ? success : rounded(success, 4);
    out[1] = exact ? tokens : rounded(tokens, 2);
    out[2] = exact ? unlimited : rounded(unlimited, 2);
    out[3] = exact ? answers : rounded(answers, 2);
}

/* The forecasts for a limit of reasoning tokens, or INFINITY: for each checkpoint and then each escalation P(correct
 * within the limit), expected tokens under it and without it, and answer tokens. They are rounded unless `exact`. */
void laconic_forecasts(const Plan *plan, double *state, double limit, int64_t exact, double *out) {
    State s = state_of(plan, state);
    for (int64_t c = 0; c < plan->checkpoints; c++, out += 4) {
        const double *tokens = s.tokens + c * LEVELS;
        double within = limit >= tokens[LEVELS - 1] ? 1.0 : share_below(plan, tokens, NULL, limit);
        double under = isinf(limit) ? s.expected[c] : mean_below(plan, tokens, NULL, limit);
        put(out, correct_within(plan, &s, c, s.correct[c], within, limit), under, s.expected[c], s.answers[c], exact);
    }
    for (int64_t e = 0; e < plan->escalations; e++, out += 4) {
        int64_t first = plan->pairs[2 * e], second = plan->pairs[2 * e + 1];
        const double *before = s.tokens + first * LEVELS, *then = s.tokens + second * LEVELS;
        double unsure = s.pair_unsure[e], sure = 1.0 - unsure, within = 1.0;
        if (limit < before[LEVELS - 1] + then[LEVELS - 1])
            within = sure * share_below(plan, before, NULL, limit) + unsure * share_below(plan, before, then, limit);
        double unlimited = sure * s.expected[first] + unsure * mean_below(plan, before, then, INFINITY);
        double under = unlimited;
        if (!isinf(limit))
            under = sure * mean_below(plan, before, NULL, limit) + unsure * mean_below(plan, before, then, limit);
        double success = correct_within(plan, &s, second, s.pair_correct[e], within, limit - s.expected[first]);
        put(out, success, under, unlimited, sure * s.answers[first] + unsure * s.answers[second], exact);
    }
}
