// What every form of mla starts from: queries and cache with their positions, and the keys and
// values that the cache stands for. Arrays, for the definition and the kernels of every backend.
#ifndef ATTND_KERNELS_OPS_MLA_MLA_PARTS_H_
#define ATTND_KERNELS_OPS_MLA_MLA_PARTS_H_

#include <vector>

#include "kernels/primitives/composer.h"

namespace attnd {

struct MlaParts {
  Array q;       // [B,T,H,Dn+Dr], its last Dr channels turned.
  Array latent;  // [B,S,R]: the latents of the cache, then the new ones, normalised if asked for.
  Array rope;    // [B,S,Dr], turned; undefined if Dr = 0.
};

// The cache is in the call's type and attention reads what the cache holds: latent and rope are
// rounded to that type, so that an answer does not depend on how its tokens were cut into calls.
MlaParts MlaPartsOf(Composer& c);

struct MlaKeys {
  Array k;  // [B,S,heads,Dn+Dr]: [W_k latent, rope].
  Array v;  // [B,S,heads,Dv]: W_v latent.
};

// Keys and values of the heads [first, first + heads), contiguous.
MlaKeys ExpandMla(Composer& c, const MlaParts& parts, int64_t first, int64_t heads);

// The keys that a call's sequences read: their own tokens, or in a dense call the whole cache.
std::vector<Sequence> MlaKeySequences(const BoundCall& call);

// How far back a query reads, without its own token: window - 1, or -1 for no limit.
int64_t MlaWindowLeft(const BoundCall& call);

}  // namespace attnd

#endif  // ATTND_KERNELS_OPS_MLA_MLA_PARTS_H_
