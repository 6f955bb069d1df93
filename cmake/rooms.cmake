# A room is a static library ti_<name> whose headers others reach as "<name>/x.h", and only by linking it: each room has an include folder of its own
# in the build tree that holds nothing but a link to the room.

add_library(ti_flags INTERFACE)
target_compile_options(ti_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall;-Wextra;-Werror;-Wshadow;-Wstrict-prototypes;-Wmissing-prototypes;-Wpointer-arith;-Wvla;-Wno-unused-parameter;-ffp-contract=off;-fno-math-errno>)
target_compile_definitions(ti_flags INTERFACE _GNU_SOURCE TI_VERSION="${PROJECT_VERSION}")
target_link_libraries(ti_flags INTERFACE Threads::Threads m)

function(ti_room_includes name)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/rooms/${name})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${name} ${CMAKE_BINARY_DIR}/rooms/${name}/${name} SYMBOLIC)
endfunction()

# ti_room(name LINKS <targets...> [EXCLUDE <regex>...]): every .c below the room's folder, CONFIGURE_DEPENDS.
function(ti_room name)
  cmake_parse_arguments(R "" "" "LINKS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE srcs CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  foreach(x IN LISTS R_EXCLUDE)
    list(FILTER srcs EXCLUDE REGEX ${x})
  endforeach()
  if(NOT srcs)
    message(STATUS "room ${name}: no sources, left out")
    return()
  endif()
  ti_room_includes(${name})
  add_library(ti_${name} STATIC ${srcs})
  target_include_directories(ti_${name} PUBLIC ${CMAKE_BINARY_DIR}/rooms/${name})
  target_link_libraries(ti_${name} PUBLIC ${R_LINKS} ti_flags)
endfunction()
