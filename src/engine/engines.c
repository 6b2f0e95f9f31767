/* SPDX-License-Identifier: MIT */
/* The engines compiled in. A new one is one line here and its directory in meson.build. */
#include "vm/engine.h"

extern const struct engine bt_engine;
extern const struct engine kvm_engine;

const struct engine *const engines[] = { &bt_engine, &kvm_engine, NULL };
