/* SPDX-License-Identifier: MIT */
/*
 * The process's own terminal, shared between the guest's console and the monitor. There is one, so
 * these take no argument; they do nothing when no console is on it.
 */
#ifndef LODGE_CHAR_STDIO_H
#define LODGE_CHAR_STDIO_H

#include <stdbool.h>

/* Take the terminal away from the guest: line-editing mode, nothing is read. Loop thread. */
void stdio_suspend(void);
/* Give it back: raw mode. Any thread. */
void stdio_resume(void);
/* Put the terminal back into the mode it was found in. Any thread; also done at exit. */
void stdio_restore(void);

#endif
