/* For user-mode Linux on processors with AMX, preloaded into it.

   It keeps 2696 bytes of extended processor state for each of its processes and sets them with
   PTRACE_SETREGSET. Linux takes the whole state or nothing (EFAULT), and with AMX's tiles that is 11 KB. The
   rest, which nobody in the guest uses, is set to its initial zeros. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define STATE_MAX (64 << 10)

typedef long call(int request, pid_t pid, void *addr, void *data);

/* User-mode Linux runs on one thread, and its stacks are small. */
static char state[STATE_MAX] __attribute__((aligned(64)));
static size_t state_bytes;
static call *next;

static int is_set(int request, void *addr)
{
	return request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE;
}

static long set_whole(pid_t pid, const struct iovec *part)
{
	struct iovec whole = {state, sizeof(state)};

	if (!state_bytes) {
		if (next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole) < 0)
			return -1;
		state_bytes = whole.iov_len;
	}
	if (part->iov_len >= state_bytes) {
		errno = EFAULT;
		return -1;
	}
	memcpy(state, part->iov_base, part->iov_len);
	memset(state + part->iov_len, 0, state_bytes - part->iov_len);
	whole.iov_len = state_bytes;
	return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	long done;

	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *addr = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);
	if (!next)
		next = (call *)dlsym(RTLD_NEXT, "ptrace");
	if (state_bytes && is_set(request, addr))
		return set_whole(pid, data);
	done = next(request, pid, addr, data);
	if (done < 0 && errno == EFAULT && is_set(request, addr))
		return set_whole(pid, data);
	return done;
}
