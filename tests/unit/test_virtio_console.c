/* SPDX-License-Identifier: MIT */
/* virtio-console as a driver sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "char/char.h"
#include "device/virtio_devices.h"
#include "virtio_driver.h"

#define RECEIVE 0
#define TRANSMIT 1

struct terminal {
	struct char_backend chr;
	char text[8192];
	size_t len;
	unsigned accepts;
};

static size_t terminal_write(struct char_backend *chr, const uint8_t *data, size_t len)
{
	struct terminal *t = container_of(chr, struct terminal, chr);

	memcpy(t->text + t->len, data, len);
	t->len += len;
	return len;
}

static void terminal_accept(struct char_backend *chr)
{
	container_of(chr, struct terminal, chr)->accepts++;
}

static const struct char_backend_ops terminal_ops = { terminal_write, NULL };

struct fixture {
	struct test_machine *m;
	struct driver d;
	struct terminal t;
};

static void set_up(struct fixture *f)
{
	struct error err;

	memset(f, 0, sizeof(*f));
	f->t.chr.ops = &terminal_ops;
	f->t.chr.accept_input = terminal_accept;
	f->m = test_machine_create(1);
	assert_non_null(virtio_console_create(f->m->bus, 6, &f->t.chr, &err));
	assert_int_equal(pci_assign_bars(f->m->bus, TEST_MMIO, TEST_MMIO_SIZE, TEST_IO, 0x1000,
					 true, &err),
			 0);
	test_machine_start_loop(f->m);
	driver_probe(&f->d, f->m, f->m->bus->devices[PCI_DEVFN(6, 0)]);
}

static void output_is_written_in_order(void **state)
{
	struct fixture f;
	struct test_buffer out[2];

	(void)state;
	set_up(&f);
	driver_start(&f.d, ~0ull, true, 2, 16);
	out[0] = (struct test_buffer){ test_alloc(f.m, 64), 6 };
	out[1] = (struct test_buffer){ out[0].gpa + 6, 6 };
	memcpy(test_host(f.m, out[0].gpa), "hello world\n", 12);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(driver_add(&f.d.queues[TRANSMIT], out, 2, NULL, 0, out));
		driver_kick(&f.d.queues[TRANSMIT]);
		assert_non_null(driver_wait(&f.d.queues[TRANSMIT], NULL));
	}
	assert_int_equal(f.t.len, 1200);
	assert_memory_equal(f.t.text + 12 * 99, "hello world\n", 12);
	/* The emergency register works without queues (5.3.4). */
	driver_write(&f.d, f.d.device + 8, '!', 4);
	assert_int_equal(f.t.text[1200], '!');
	test_machine_destroy(f.m);
}

static void input_waits_for_buffers(void **state)
{
	struct fixture f;
	struct test_buffer in;
	uint8_t *host;
	uint32_t len;
	unsigned at = 0;
	uint8_t bytes[5000];

	(void)state;
	set_up(&f);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * 7;
	assert_int_equal(f.t.chr.can_receive(f.t.chr.opaque), 0); /* no driver */
	driver_start(&f.d, ~0ull, true, 2, 16);
	assert_int_equal(f.t.chr.can_receive(f.t.chr.opaque), 4096);
	f.t.chr.receive(f.t.chr.opaque, bytes, 3000);
	assert_int_equal(f.t.chr.can_receive(f.t.chr.opaque), 1096);
	in = (struct test_buffer){ test_alloc(f.m, 4096), 700 };
	host = test_host(f.m, in.gpa);
	while (at < 5000) {
		size_t room = f.t.chr.can_receive(f.t.chr.opaque);

		if (at == 1400)
			f.t.chr.receive(f.t.chr.opaque, bytes + 3000, MIN(room, 2000));
		assert_true(driver_add(&f.d.queues[RECEIVE], NULL, 0, &in, 1, host));
		driver_kick(&f.d.queues[RECEIVE]);
		assert_non_null(driver_wait(&f.d.queues[RECEIVE], &len));
		assert_memory_equal(host, bytes + at, len);
		at += len;
	}
	assert_true(f.t.accepts > 0);
	/* With a buffer there, input arrives at once, with an interrupt. */
	driver_enable_interrupts(&f.d.queues[RECEIVE], true);
	driver_add(&f.d.queues[RECEIVE], NULL, 0, &in, 1, host);
	driver_kick(&f.d.queues[RECEIVE]);
	unsigned before = f.m->messages[1];
	f.t.chr.receive(f.t.chr.opaque, (const uint8_t *)"x", 1);
	assert_int_equal(f.m->messages[1], before + 1);
	assert_non_null(driver_used(&f.d.queues[RECEIVE], &len));
	assert_int_equal(len, 1);
	assert_int_equal(host[0], 'x');
	test_machine_destroy(f.m);
}

static void state_round_trips(void **state)
{
	struct fixture f;
	struct error err;

	(void)state;
	set_up(&f);
	driver_start(&f.d, ~0ull, true, 2, 16);
	f.t.chr.receive(f.t.chr.opaque, (const uint8_t *)"abc", 3);
	if (vm_state_round_trip(f.m->vm, &err) < 0)
		fail_msg("%s", err.text);
	test_machine_destroy(f.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_is_written_in_order),
		cmocka_unit_test(input_waits_for_buffers),
		cmocka_unit_test(state_round_trips),
	};

	return cmocka_run_group_tests_name("virtio-console", tests, NULL, NULL);
}
